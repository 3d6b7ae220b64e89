"""Write the document: `python -m mo_grpc.openapi DESCRIPTOR_SET OUT`; the descriptor set has the comments in it."""

import json
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mo_grpc.openapi.document import document

source, out = map(Path, sys.argv[1:])
made = document(FileDescriptorSet.FromString(source.read_bytes()))
out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
