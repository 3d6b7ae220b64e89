"""Write the document: `python -m mo_grpc.web.reference DESCRIPTOR_SET OUT`; the descriptor set has the comments in it."""

import json
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mo_grpc.web.reference.document import document
from mo_grpc.web.reference.schemas import DocumentError

source, out = map(Path, sys.argv[1:])
try:
    made = document(FileDescriptorSet.FromString(source.read_bytes()))
except DocumentError as error:
    sys.exit(str(error))
out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
