"""Run by the image's own interpreter: compiles what comes on standard input, several files at a time.

Request: a 4-byte number of files (little endian), then for each two 4-byte lengths, path, source. It is read to its end before
anything is answered, so that neither side waits for the other. Answer: for each file one 4-byte length and the ``.pyc`` file;
length 0 means that the source does not compile, which is true of templates and of files for other Pythons and no error.

Standard library only, any Python 3. Unchecked-hash byte code (PEP 552) does not depend on time stamps; sources are hashed, but
never looked at again when the code is loaded.
"""

import importlib.util
import marshal
import struct
import sys
import warnings

FLAGS_UNCHECKED_HASH = 0b01


def compiled(path: str, source: bytes) -> bytes:
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, UnicodeDecodeError, RecursionError, MemoryError):
        return b""
    header = importlib.util.MAGIC_NUMBER + struct.pack("<I", FLAGS_UNCHECKED_HASH) + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def main() -> None:
    warnings.simplefilter("ignore")
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    while count := reader.read(4):
        files = []
        for _ in range(struct.unpack("<I", count)[0]):
            path_size, source_size = struct.unpack("<II", reader.read(8))
            files.append((reader.read(path_size).decode("utf-8", "surrogateescape"), reader.read(source_size)))
        for path, source in files:
            content = compiled(path, source)
            writer.write(struct.pack("<I", len(content)) + content)
        writer.flush()


if __name__ == "__main__":
    main()
