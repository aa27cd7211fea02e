"""A sheet as SVG or PDF: shapes as images, text, rules and legends as what they are, to be edited and searched.

Triangles are not written as vectors: a surface has too many of them for the programs that open such files.
"""

from __future__ import annotations

import base64
import zlib
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from otreg.visualize.screen import png_bytes
from otreg.visualize.sheet import PlacedImage, PlacedRectangle, Sheet, text_mask

_POINTS = 0.75
"""PDF points (1/72 inch) in a pixel (1/96 inch)."""
_BASELINE = 0.36
"""How far the baseline of text lies below its middle, in sizes."""


def svg_text(sheet: Sheet, *, transparent: bool = False) -> str:
    """Write a sheet as SVG 1.1."""
    width, height = sheet.size
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    if not transparent:
        lines.append(f'<rect width="{width}" height="{height}" fill="{_hex(sheet.background)}"/>')
    for item in sheet.placed:
        if isinstance(item, PlacedImage):
            rows, columns = item.image.shape[:2]
            image = _without(item.image, sheet.background) if transparent else item.image
            data = base64.b64encode(png_bytes(image)).decode()
            lines.append(
                f'<image x="{item.left}" y="{item.top}" width="{columns}" height="{rows}" '
                f'preserveAspectRatio="none" xlink:href="data:image/png;base64,{data}"/>'
            )
        elif isinstance(item, PlacedRectangle):
            lines.append(
                f'<rect x="{item.left:.2f}" y="{item.top:.2f}" width="{item.width:.2f}" '
                f'height="{item.height:.2f}" fill="{_hex(item.colour)}"/>'
            )
        else:
            anchor = {"left": "start", "centre": "middle", "right": "end"}[item.anchor]
            bold = ' font-weight="bold"' if item.bold else ""
            lines.append(
                f'<text x="{item.x:.2f}" y="{item.y + _BASELINE * item.size:.2f}" font-size="{item.size}" '
                f'font-family="Arial, Helvetica, sans-serif" text-anchor="{anchor}"{bold} '
                f'fill="{_hex(item.colour)}">{escape(item.words)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def pdf_bytes(sheet: Sheet, *, title: str) -> bytes:
    """Write a sheet as one page of PDF 1.4 (ISO 32000-1), in Helvetica, with lossless images."""
    width, height = sheet.size
    drawing = [f"{_POINTS} 0 0 {_POINTS} 0 0 cm", f"{_rgb(sheet.background)} rg 0 0 {width} {height} re f"]
    images: list[NDArray[np.uint8]] = []
    for item in sheet.placed:
        if isinstance(item, PlacedImage):
            rows, columns = item.image.shape[:2]
            bottom = height - item.top - rows
            drawing.append(f"q {columns} 0 0 {rows} {item.left} {bottom} cm /I{len(images)} Do Q")
            images.append(item.image)
        elif isinstance(item, PlacedRectangle):
            bottom = height - item.top - item.height
            drawing.append(
                f"{_rgb(item.colour)} rg {item.left:.2f} {bottom:.2f} {item.width:.2f} {item.height:.2f} re f"
            )
        elif item.words.strip():
            long = text_mask(item.words, item.size, item.bold).shape[1]
            left = item.x - {"left": 0.0, "centre": 0.5, "right": 1.0}[item.anchor] * long
            baseline = height - item.y - _BASELINE * item.size
            font = "F1" if item.bold else "F0"
            drawing.append(
                f"BT {_rgb(item.colour)} rg /{font} {item.size} Tf {left:.2f} {baseline:.2f} Td "
                f"{_pdf_string(item.words)} Tj ET"
            )
    named = " ".join(f"/I{k} {7 + k} 0 R" for k in range(len(images)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width * _POINTS} {height * _POINTS}] /Contents 4 0 R "
        f"/Resources << /Font << /F0 5 0 R /F1 6 0 R >> /XObject << {named} >> >> >>".encode(),
        _stream("", "\n".join(drawing).encode("latin-1")),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
        *(
            _stream(
                f"/Type /XObject /Subtype /Image /Width {image.shape[1]} /Height {image.shape[0]} "
                "/ColorSpace /DeviceRGB /BitsPerComponent 8",
                np.ascontiguousarray(image).tobytes(),
            )
            for image in images
        ),
        f"<< /Title {_pdf_string(title)} /Creator (otreg) >>".encode("latin-1"),
    ]
    written = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = len(written)
    written += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    written += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    written += (
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n"
        f"startxref\n{table}\n%%EOF\n"
    ).encode()
    return bytes(written)


def _stream(entries: str, data: bytes) -> bytes:
    packed = zlib.compress(data, 9)
    head = f"<< {entries} /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode()
    return head + packed + b"\nendstream"


def _pdf_string(words: str) -> str:
    """A PDF string in Windows' Latin encoding; letters that it lacks become question marks."""
    plain = words.encode("cp1252", errors="replace").decode("latin-1")
    return "(" + "".join("\\" + letter if letter in "()\\" else letter for letter in plain) + ")"


def _rgb(colour: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4f}" for value in colour)


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * min(max(value, 0.0), 1.0)):02x}" for value in colour)


def _without(image: NDArray[np.uint8], background: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The image with pixels of exactly the background left clear, (height, width, 4)."""
    clear = (image == np.rint(255 * np.asarray(background)).astype(np.uint8)).all(axis=2)
    return np.dstack([image, np.where(clear, 0, 255).astype(np.uint8)])
