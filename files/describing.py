"""What a .bif file says of itself."""

from collections.abc import Sequence
from pathlib import Path

from models.bitstream import VERSION, layer_states, read_header
from models.counted import counted
from models.outputs import Layer
from pictures.names import shown


def describe(
    path: Path, layers: Sequence[Layer] | None = None, model_id: bytes | None = None
) -> tuple[str, bool]:
    """A file's header in words; needs no model.

    Args:
        path: the file.
        layers: of a model's codec, for their names.
        model_id: of that codec: says whether the file is one of its own.

    Returns:
        The text, several lines, and whether the file is whole and unharmed.

    Raises:
        BitstreamError: no .bif file, or a header that is cut off or damaged.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    header = read_header(data)
    states = layer_states(data, header)
    height, width = header.size
    is_own = model_id is not None and header.model_id == model_id
    own = "" if model_id is None else " = the model's" if is_own else ", another than the model's"
    named = is_own and layers is not None and len(layers) == len(header.lengths)
    doubt = "" if "ok" in states else "  (not to be trusted: no checksum vouches for the header)"
    lines = [
        f"{shown(path)}: Bifocal file, version {VERSION}",
        f"  model id  {header.model_id.hex()}  (codec and weights of its entropy side{own})",
        f"  size      {width} x {height} pixels{doubt}",
        f"  rate      {'one rate' if header.rate is None else f'{header.rate:g}'}",
    ]
    for number, (length, state) in enumerate(zip(header.lengths, states, strict=True)):
        name = f"layer {layers[number].name if named else number}"
        lines.append(f"  {name:<8}  {length:>9} bytes  {8 * length / (height * width):8.4f} bpp  {state}")
    lines.append(f"  header    {header.num_bytes:>9} bytes")
    lines.append(f"  file      {len(data):>9} bytes  {8 * len(data) / (height * width):8.4f} bpp")
    if (more := len(data) - header.total) > 0:
        lines.append(f"  {counted(more, 'byte')} too many after the last layer: no .bif file has any")
    sound = all(state == "ok" for state in states) and len(data) == header.total
    return "\n".join(lines), sound
