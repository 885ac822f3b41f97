"""Goldens: what a picture was when it was last looked at and found good. LAMELLA_WRITE_GOLDENS=1 writes them anew.

same_marks("ribbon-resnet20", marks)                geometry, to a tenth of a unit
same_pixels(browser, "ribbon-resnet20", picture)    a screenshot without its letters (fonts differ between machines), within tolerance
"""

import base64
import os
from pathlib import Path

FOLDER = Path(__file__).with_name("goldens")
WRITE = bool(os.environ.get("LAMELLA_WRITE_GOLDENS"))
FAR = 40  # of 255: a pixel that differs by more is another pixel
SHARE = 0.004  # of all pixels that may be other ones: edges are smoothed differently between versions

COMPARE = """async ([one, other]) => {
  const read = async (text) => {
    const image = await createImageBitmap(await (await fetch("data:image/png;base64," + text)).blob());
    const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return { width: image.width, height: image.height, data: context.getImageData(0, 0, image.width, image.height).data };
  };
  const [a, b] = [await read(one), await read(other)];
  if (a.width !== b.width || a.height !== b.height) return 1;
  let far = 0;
  for (let i = 0; i < a.data.length; i += 4)
    if (Math.max(...[0, 1, 2].map((k) => Math.abs(a.data[i + k] - b.data[i + k]))) > FAR) far++;
  return far / (a.data.length / 4);
}""".replace("FAR", str(FAR))


def same_marks(name, marks):
    """The marks as lines, equal to those in the file."""
    lines = "".join(
        f"{m.shape} {m.role} {m.x:.1f} {m.y:.1f} {m.width:.1f} {m.height:.1f} {m.about!r} {m.text!r}\n" for m in marks
    )
    path = FOLDER / f"{name}.txt"
    if WRITE:
        path.write_text(lines, encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8"), f"{name} has changed: look at it, then write the golden anew"


def same_pixels(browser, name, picture, scheme="light", media="screen"):
    """The picture (an SVG with its style) looks as it did."""
    page = browser.new_page(viewport={"width": 900, "height": 600})
    page.emulate_media(media=media, color_scheme=scheme)
    ground = "#16181c" if scheme == "dark" else "#fff"
    page.set_content(f"<body style='margin:8px;background:{ground}'>{picture}</body>")
    page.add_style_tag(content="svg text { visibility: hidden !important }")
    seen = page.locator("svg").first.screenshot()
    path = FOLDER / f"{name}.png"
    if WRITE:
        path.write_bytes(seen)
    pair = [base64.b64encode(data).decode() for data in (seen, path.read_bytes())]
    share = page.evaluate(COMPARE, pair)
    page.close()
    assert share <= SHARE, (
        f"{name}: {100 * share:.2f} % of its pixels have changed: look at it, then write the golden anew"
    )
