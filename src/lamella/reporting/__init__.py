"""Pictures and the page: what a run did, drawn from its records alone, without torch."""
