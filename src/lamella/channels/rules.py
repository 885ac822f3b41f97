"""The table from an operator's name to its rule. A new operator is a name in a row, a new kind of operator one function."""

from torch.fx import Node

from . import contraction, mixing, movement, pieces
from .places import is_pointwise, operator_name
from .walk import Rule, Walk


def rule_of(node: Node) -> Rule | None:
    """The rule for this operator; None if there is none, and whatever it touches must stay."""
    name = operator_name(node)
    if name in ("max", "min") and len(node.args) > 1 and isinstance(node.args[1], Node):  # of two tensors
        return movement.pointwise
    return RULES.get(name) or (movement.pointwise if is_pointwise(node) else None)


def _ignore(walk: Walk, node: Node) -> None:
    """An assertion: it makes nothing."""


_FAMILIES: dict[Rule, str] = {
    movement.movement: "permute transpose t numpy_T movedim swapaxes unsqueeze repeat repeat_interleave tile flip "
    "pixel_shuffle pixel_unshuffle adjoint diagonal",
    movement.squeeze: "squeeze",
    movement.roll: "roll",
    movement.restrided: "as_strided",
    movement.shuffle: "channel_shuffle native_channel_shuffle",
    movement.expand: "expand expand_as broadcast_to",
    movement.join: "cat concat concatenate stack",
    movement.reshape: "view reshape _unsafe_view flatten unflatten view_as reshape_as",
    pieces.cut: "chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split unsafe_split_with_sizes",
    pieces.cut_out: "slice narrow",
    pieces.select: "select unbind",
    pieces.index: "index index_select",
    pieces.pad: "pad constant_pad_nd",
    movement.glu: "glu",
    movement.constant: "zeros ones full empty zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty scalar_tensor",
    movement.item: "getitem",
    mixing.spatial: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "_upsample_nearest_exact2d _upsample_nearest_exact1d grid_sampler grid_sampler_2d reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d lp_pool2d lp_pool1d",
    mixing.reduce: "mean sum amax amin max min prod var std var_mean std_mean "
    "logsumexp norm linalg_vector_norm any all nansum argmax argmin",
    mixing.along_axis: "softmax _softmax log_softmax _log_softmax cumsum sort argsort topk",
    mixing.batch_norm: "batch_norm instance_norm _native_batch_norm_legit_no_training cudnn_batch_norm native_batch_norm",
    mixing.layer_norm: "layer_norm native_layer_norm rms_norm",
    mixing.group_norm: "group_norm native_group_norm",
    mixing.prelu: "prelu _prelu_kernel",
    contraction.convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution",
    contraction.linear: "linear",
    contraction.matmul: "mm bmm matmul addmm baddbmm",
    contraction.attention: "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu",
    contraction.embedding: "embedding",
    _ignore: "_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size sym_size",
}

RULES: dict[str, Rule] = {name: rule for rule, names in _FAMILIES.items() for name in names.split()}
