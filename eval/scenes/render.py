"""Rasterise primitives: distance functions, silhouettes, cast shadows and painting.

A primitive is one float64 row, see the column names below; positions are pixels of the picture, y down. Only
+ - * / sqrt and comparisons touch a pixel, and fast-math stays off, so every machine gives the same picture.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Kinds of primitive.
BOX, ELLIPSE, CAPSULE, POLYGON, RING, FOLIAGE = range(6)

# Columns of a primitive: kind, five numbers of geometry, colour, shading.
KIND, G0, G1, G2, G3, G4, RED, GREEN, BLUE = range(9)
LIFT, SIDE, TEXTURE, AMPLITUDE, TEXELS, ALPHA, SOLID, PHASE = range(9, 17)
COLUMNS = 17


@njit(cache=True, inline="always")
def _bounds(p, vertices, width, height):
    """Pixel box (x0, y0, x1, y1) that holds the primitive, clipped to the picture."""
    kind = int(p[KIND])
    if kind == CAPSULE:
        x0 = min(p[G0], p[G2]) - p[G4]
        x1 = max(p[G0], p[G2]) + p[G4]
        y0 = min(p[G1], p[G3]) - p[G4]
        y1 = max(p[G1], p[G3]) + p[G4]
    elif kind == POLYGON:
        first = int(p[G0])
        x0 = vertices[first, 0]
        x1 = x0
        y0 = vertices[first, 1]
        y1 = y0
        for i in range(first + 1, first + int(p[G1])):
            x0 = min(x0, vertices[i, 0])
            x1 = max(x1, vertices[i, 0])
            y0 = min(y0, vertices[i, 1])
            y1 = max(y1, vertices[i, 1])
    else:
        grow = 1.25 if kind == FOLIAGE else 1.0
        x0 = p[G0] - p[G2] * grow
        x1 = p[G0] + p[G2] * grow
        y0 = p[G1] - p[G3] * grow
        y1 = p[G1] + p[G3] * grow
    return x0, y0, x1, y1


@njit(cache=True, inline="always")
def _distance(p, vertices, textures, x, y):
    """Signed distance in pixels from the primitive's outline, negative inside."""
    kind = int(p[KIND])
    if kind == BOX:
        dx = abs(x - p[G0]) - p[G2] + p[G4]
        dy = abs(y - p[G1]) - p[G3] + p[G4]
        ox = max(dx, 0.0)
        oy = max(dy, 0.0)
        return np.sqrt(ox * ox + oy * oy) + min(max(dx, dy), 0.0) - p[G4]
    if kind == CAPSULE:
        px = x - p[G0]
        py = y - p[G1]
        bx = p[G2] - p[G0]
        by = p[G3] - p[G1]
        t = (px * bx + py * by) / (bx * bx + by * by + 1e-9)
        t = min(max(t, 0.0), 1.0)
        px -= bx * t
        py -= by * t
        square = px * px + py * py
        if square > (p[G4] + 1.0) * (p[G4] + 1.0):
            return 1.0
        return np.sqrt(square) - p[G4]
    if kind == POLYGON:
        first = int(p[G0])
        count = int(p[G1])
        nearest = 1e18
        inside = False
        j = first + count - 1
        for i in range(first, first + count):
            ex = vertices[j, 0] - vertices[i, 0]
            ey = vertices[j, 1] - vertices[i, 1]
            wx = x - vertices[i, 0]
            wy = y - vertices[i, 1]
            t = (wx * ex + wy * ey) / (ex * ex + ey * ey + 1e-9)
            t = min(max(t, 0.0), 1.0)
            qx = wx - ex * t
            qy = wy - ey * t
            nearest = min(nearest, qx * qx + qy * qy)
            if (vertices[i, 1] > y) != (vertices[j, 1] > y) and wx < ex * wy / ey:
                inside = not inside
            j = i
        root = np.sqrt(nearest)
        return -root if inside else root
    px = x - p[G0]
    py = y - p[G1]
    ax = px / p[G2]
    ay = py / p[G3]
    square = ax * ax + ay * ay
    slack = 1.5 / min(p[G2], p[G3])  # farther than this from the outline only the side matters
    if kind == ELLIPSE:
        if square > (1.0 + slack) * (1.0 + slack):
            return 1.0
        if slack < 1.0 and square < (1.0 - slack) * (1.0 - slack):
            return -1.0
    k0 = np.sqrt(square)
    bx = ax / p[G2]
    by = ay / p[G3]
    k1 = np.sqrt(bx * bx + by * by) + 1e-9
    d = k0 * (k0 - 1.0) / k1
    if kind == RING:
        return abs(d + p[G4]) - p[G4]
    if kind == FOLIAGE:
        u = int(px * p[TEXELS] + p[PHASE] + 4096.0) & 511
        v = int(py * p[TEXELS] + p[PHASE] * 3.0 + 4096.0) & 511
        return d + textures[2, v, u] * p[G4]
    return d


@njit(cache=True)
def silhouette(mask, primitives, vertices, textures):
    """Mark the pixels of one object in `mask` (uint8 [H, W], all 0 before).

    Returns (area, x0, y0, x1, y1): pixels marked and their box, ends exclusive; area 0 gives an empty box.
    """
    height, width = mask.shape
    area = 0
    left, top, right, bottom = width, height, 0, 0
    for k in range(primitives.shape[0]):
        p = primitives[k]
        if p[SOLID] < 0.5:
            continue
        fx0, fy0, fx1, fy1 = _bounds(p, vertices, width, height)
        for y in range(max(int(fy0) - 1, 0), min(int(fy1) + 2, height)):
            for x in range(max(int(fx0) - 1, 0), min(int(fx1) + 2, width)):
                if mask[y, x] == 0 and _distance(p, vertices, textures, x + 0.5, y + 0.5) <= 0.0:
                    mask[y, x] = 1
                    area += 1
                    left = min(left, x)
                    right = max(right, x + 1)
                    top = min(top, y)
                    bottom = max(bottom, y + 1)
    return area, left, top, right, bottom


@njit(cache=True)
def cast_shadow(shadow, mask, box, base, shear, squash):
    """Lay an object's silhouette down on the ground as seen from the camera.

    `shadow` is float32 [H, W] in [0, 1]; `base` the y of the foot; the shadow of a point h pixels above the foot
    falls `shear * h` to the right and `squash * h` further up in the picture (down where squash is negative).
    """
    height, width = shadow.shape
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]
    tall = base - y0
    far = base - squash * tall
    first = max(int(min(far, base)), 0)
    last = min(int(max(far, base)) + 1, height)
    reach = shear * tall
    left = max(int(x0 + min(reach, 0.0)), 0)
    right = min(int(x1 + max(reach, 0.0)) + 1, width)
    for y in range(first, last):
        h = (base - y) / squash
        source = int(base - h)
        if source < y0 or source >= y1:
            continue
        for x in range(left, right):
            column = int(x - shear * h + 1024.0) - 1024
            if x0 <= column < x1 and mask[source, column] != 0:
                shadow[y, x] = 1.0


@njit(cache=True)
def contact_shadow(shadow, cx, cy, rx, ry):
    """Darken softly the ground round a foot: an ellipse that fades outwards, kept by maximum."""
    height, width = shadow.shape
    for y in range(max(int(cy - ry), 0), min(int(cy + ry) + 1, height)):
        v = (y - cy) / ry
        for x in range(max(int(cx - rx), 0), min(int(cx + rx) + 1, width)):
            u = (x - cx) / rx
            d = 1.0 - (u * u + v * v)
            if d > 0.0:
                shadow[y, x] = max(shadow[y, x], np.float32(min(d * 1.6, 0.9)))


@njit(cache=True)
def paint(image, primitives, vertices, textures):
    """Blend primitives over `image` (float32 [H, W, 3], 0 to 255) in the order of the rows."""
    height, width = image.shape[0], image.shape[1]
    for k in range(primitives.shape[0]):
        p = primitives[k]
        fx0, fy0, fx1, fy1 = _bounds(p, vertices, width, height)
        cx = (fx0 + fx1) * 0.5
        cy = (fy0 + fy1) * 0.5
        ix = 2.0 / (fx1 - fx0 + 1e-6)
        iy = 2.0 / (fy1 - fy0 + 1e-6)
        texture = int(p[TEXTURE])
        amplitude = p[AMPLITUDE]
        for y in range(max(int(fy0) - 1, 0), min(int(fy1) + 2, height)):
            for x in range(max(int(fx0) - 1, 0), min(int(fx1) + 2, width)):
                d = _distance(p, vertices, textures, x + 0.5, y + 0.5)
                if d >= 0.5:
                    continue
                alpha = min(0.5 - d, 1.0) * p[ALPHA]
                tone = 1.0 - p[LIFT] * (y + 0.5 - cy) * iy + p[SIDE] * (x + 0.5 - cx) * ix
                if amplitude > 0.0:
                    u = int((x - cx) * p[TEXELS] + p[PHASE] + 4096.0) & 511
                    v = int((y - cy) * p[TEXELS] + p[PHASE] * 3.0 + 4096.0) & 511
                    tone += amplitude * textures[texture, v, u]
                for c in range(3):
                    old = image[y, x, c]
                    image[y, x, c] = np.float32(old + alpha * (p[RED + c] * tone - old))


def stack_rows(rows: list[tuple[float, ...]]) -> NDArray[np.float64]:
    """Put primitive rows into one float64 array [n, COLUMNS]."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), COLUMNS)
