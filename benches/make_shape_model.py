"""Writes a random GGUF with the shape of a real qwen3 model, to measure speed and memory with.

    python benches/make_shape_model.py model.gguf --format TQ2_0 --shape 1.7b

What it does: streams random codes and equally random, sensibly sized scales to disk, tensor by tensor, with a memory
need of one slice. What it does not do: make a model that says anything. The embedding is tied and in the same format as
the linear layers, as in the ternary qwen3 models that people publish. The vocabulary is synthetic byte-level BPE of full
size. Needs Python 3.10 and numpy, nothing else; the same arguments give the same file.
"""

import argparse
import struct
import time

import numpy as np

# name: (layers, width, ffn, heads, kv heads, head size)
SHAPES = {
    "tiny": (2, 256, 768, 4, 2, 128),
    "0.6b": (28, 1024, 3072, 16, 8, 128),
    "1.7b": (28, 2048, 6144, 16, 8, 128),
    "4b": (36, 2560, 9728, 32, 8, 128),
    "8b": (36, 4096, 12288, 32, 8, 128),
}
# name: (type id, elements a block, bytes a block, bytes of codes, offset of the f16 scale)
FORMATS = {
    "TQ1_0": (34, 256, 54, 52, 52),
    "TQ2_0": (35, 256, 66, 64, 64),
    "Q1_0": (41, 128, 18, 16, 0),
    "Q2_0": (42, 64, 18, 16, 0),
    "Q2_0_G128": (42, 128, 34, 32, 0),
    "PQ2_0": (142, 128, 34, 32, 0),
    "PTQ1_0": (143, 128, 28, 26, 26),
    # Not ternary: four bits, which is what people run where there is no ternary kernel.
    "Q4_0": (2, 32, 18, 16, 0),
}
FILE_TYPES = {"Q4_0": 2, "TQ1_0": 36, "TQ2_0": 37, "Q1_0": 40, "Q2_0": 41, "Q2_0_G128": 41}
VOCAB = 151936
ALIGNMENT = 32
SLICE = 1 << 16  # blocks made at a time


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("output")
    args.add_argument("--format", choices=FORMATS, default="TQ2_0")
    args.add_argument("--shape", choices=SHAPES, default="1.7b")
    args.add_argument("--context", type=int, default=32768)
    args.add_argument("--vocab", type=int, default=VOCAB)
    args.add_argument("--seed", type=int, default=0)
    args = args.parse_args()

    start = time.monotonic()
    rng = np.random.Generator(np.random.SFC64(args.seed))
    tensors = tensor_list(args)
    with open(args.output, "wb") as file:
        file.write(header(args, tensors))
        pad(file)
        for name, dims, type_id, _ in tensors:
            if type_id == 0:
                file.write(rng.uniform(0.5, 1.5, dims[0]).astype("<f4").tobytes())
            else:
                write_matrix(file, rng, args.format, dims)
            pad(file)
        size = file.tell()
    count = sum(int(np.prod(t[1])) for t in tensors)
    print(f"{args.output}: {count / 1e9:.2f} G weights, {size / 2**20:.0f} MiB, {time.monotonic() - start:.1f} s")


def tensor_list(args):
    """(name, dims with the row length first, type id, bytes) of every tensor, in file order."""
    layers, width, ffn, heads, kv, head = SHAPES[args.shape]
    type_id, size, bytes_, _, _ = FORMATS[args.format]

    def matrix(name, cols, rows):
        assert cols % size == 0, f"{name}: {cols} columns are no multiple of {args.format}'s {size}"
        return name, [cols, rows], type_id, cols * rows // size * bytes_

    def norm(name, n):
        return name, [n], 0, 4 * n

    out = [matrix("token_embd.weight", width, args.vocab), norm("output_norm.weight", width)]
    for i in range(layers):
        p = f"blk.{i}."
        out += [
            norm(p + "attn_norm.weight", width),
            matrix(p + "attn_q.weight", width, heads * head),
            matrix(p + "attn_k.weight", width, kv * head),
            matrix(p + "attn_v.weight", width, kv * head),
            norm(p + "attn_q_norm.weight", head),
            norm(p + "attn_k_norm.weight", head),
            matrix(p + "attn_output.weight", heads * head, width),
            norm(p + "ffn_norm.weight", width),
            matrix(p + "ffn_gate.weight", width, ffn),
            matrix(p + "ffn_up.weight", width, ffn),
            matrix(p + "ffn_down.weight", ffn, width),
        ]
    return out


def write_matrix(file, rng, name, dims):
    """Random blocks whose products keep about the size of what goes in."""
    _, size, total, code_bytes, scale_at = FORMATS[name]
    # Of codes: -1 and 1; -8 to 7; -1, 0 and 1.
    spread = {"Q1_0": 1.0, "Q4_0": 4.6}.get(name, (2 / 3) ** 0.5)
    base = 1 / (spread * dims[0] ** 0.5)
    blocks = dims[0] * dims[1] // size
    code_at = 2 if scale_at == 0 else 0
    for first in range(0, blocks, SLICE):
        n = min(SLICE, blocks - first)
        out = np.empty((n, total), np.uint8)
        out[:, code_at : code_at + code_bytes] = random_codes(rng, name, n, code_bytes)
        scales = (base * (0.5 + rng.random(n, np.float32))).astype("<f2")
        out[:, scale_at : scale_at + 2] = scales.view(np.uint8).reshape(n, 2)
        file.write(out.tobytes())


def random_codes(rng, name, blocks, code_bytes):
    """Packed codes: bits as they come for one and four bits, bytes of four or five random trits for the others."""
    raw = np.frombuffer(rng.bytes(blocks * code_bytes), np.uint8).reshape(blocks, code_bytes)
    if name in ("Q1_0", "Q4_0"):
        return raw
    codes = byte_table(name)[raw]
    if name in ("TQ1_0", "PTQ1_0"):
        # The last of a block's code bytes hold four trits, the fifth is 0.
        short = 4 if name == "TQ1_0" else 2
        codes[:, -short:] = trit_bytes(np.arange(256) * 81 // 256 * 3)[raw[:, -short:]]
    return codes


def byte_table(name):
    """256 packed bytes that hold -1, 0 and +1 only, each trit about as often."""
    if name in ("TQ1_0", "PTQ1_0"):
        return trit_bytes(np.arange(256) * 243 // 256)
    trits = np.arange(256) * 81 // 256
    codes = [trits // 27, trits // 9 % 3, trits // 3 % 3, trits % 3]
    return sum(code << (2 * i) for i, code in enumerate(codes)).astype(np.uint8)


def trit_bytes(q):
    """ceil(q * 256 / 243): the byte that holds the base-3 number q of five digits."""
    return ((q * 256 + 242) // 243).astype(np.uint8)


def header(args, tensors):
    layers, width, ffn, heads, kv, head = SHAPES[args.shape]
    tokens, merges = vocabulary(args.vocab)
    kinds = [3, 3, 3] + [1] * (args.vocab - 3)
    meta = [
        text("general.architecture", "qwen3"),
        text("general.name", f"random qwen3 {args.shape}"),
        u32("general.file_type", FILE_TYPES.get(args.format, 0)),
        u32("general.quantization_version", 2),
        u32("qwen3.block_count", layers),
        u32("qwen3.context_length", args.context),
        u32("qwen3.embedding_length", width),
        u32("qwen3.feed_forward_length", ffn),
        u32("qwen3.attention.head_count", heads),
        u32("qwen3.attention.head_count_kv", kv),
        u32("qwen3.attention.key_length", head),
        u32("qwen3.attention.value_length", head),
        f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6),
        f32("qwen3.rope.freq_base", 1e6),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "qwen2"),
        texts("tokenizer.ggml.tokens", tokens),
        string("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(kinds)) + np.array(kinds, "<i4").tobytes(),
        texts("tokenizer.ggml.merges", merges),
        u32("tokenizer.ggml.bos_token_id", 0),
        u32("tokenizer.ggml.eos_token_id", 2),
        string("tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, False),
    ]
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(meta)), *meta]
    offset = 0
    for name, dims, type_id, size in tensors:
        out.append(string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset))
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return b"".join(out)


def vocabulary(n):
    """Three special tokens, the 256 byte letters, then merges: of two letters, and of two letters and one more."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    small = "ĠabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pairs = [(a, b) for a in small for b in small if b != "Ġ"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    merges = []
    candidates = iter(pairs + [(a + b, c) for a, b in pairs for c in small[1:]])
    while len(tokens) < n:
        pair = next(candidates, None)
        if pair is None:
            # Past the merges: names that no text is cut into.
            tokens.append(f"<unused{len(tokens)}>")
        else:
            tokens.append("".join(pair))
            merges.append(" ".join(pair))
    return tokens[:n], merges


def pad(file):
    file.write(bytes(-file.tell() % ALIGNMENT))


def string(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def text(key, value):
    return string(key) + struct.pack("<I", 8) + string(value)


def texts(key, values):
    return string(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(string, values))


def u32(key, value):
    return string(key) + struct.pack("<II", 4, value)


def f32(key, value):
    return string(key) + struct.pack("<If", 6, value)


if __name__ == "__main__":
    main()
