"""Where the squashfs lies in a SIF file of apptainer."""

from __future__ import annotations

import struct

from sovctl.errors import SovctlError

_MAGIC, _MAGIC_AT = b"SIF_MAGIC", 32
_TABLE_AT, _TOTAL_AT = 96, 88
_DESCRIPTOR_BYTES = 585
_MOST = 64
_PARTITION, _SQUASHFS, _PRIMARY = 0x4004, 1, 2


def squashfs_offset(header: bytes, path: str) -> int:
    """Bytes before the primary partition. `header`: the first 64 KiB of the file.

    Global header, little endian: magic at 32, number of descriptors (i64) at 88, offset of their table (i64) at 96.
    Descriptor, packed in 585 bytes: data type i32, used u8, id u32, group u32, link u32, offset i64, size i64, at 201
    the file system and the kind of a partition (SIF 1.0, sylabs/sif pkg/sif). Raises SovctlError.
    """
    if len(header) < 128 or header[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
        raise SovctlError(f"{path} is not a SIF image", hint="Check it: apptainer inspect IMAGE.sif")
    total, table = struct.unpack_from("<q", header, _TOTAL_AT)[0], struct.unpack_from("<q", header, _TABLE_AT)[0]
    for index in range(max(0, min(total, _MOST))):
        at = table + index * _DESCRIPTOR_BYTES
        if table < 128 or at + _DESCRIPTOR_BYTES > len(header):
            break
        kind, used = struct.unpack_from("<iB", header, at)
        offset = struct.unpack_from("<q", header, at + 17)[0]
        system, purpose = struct.unpack_from("<ii", header, at + 201)
        if (kind, system, purpose) == (_PARTITION, _SQUASHFS, _PRIMARY) and used and offset > 0:
            return int(offset)
    raise SovctlError(
        f"{path} holds no squashfs partition", hint="An encrypted or ext3 image needs apptainer: --runtime apptainer"
    )
