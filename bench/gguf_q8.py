"""The embedded model's GGUF again, with 8-bit weights (Q8_0): the file that a llama.cpp peer serves."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

Q8, F32 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.F32


def requantise(source: Path, target: Path) -> None:
    """Write `source` to `target` with every matrix in Q8_0 and every vector in fp32; all else as it is."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            of = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=of)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = Q8 if values.ndim == 2 else F32
        writer.add_tensor(tensor.name, quantize(values, kind) if kind == Q8 else values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
