"""Writes a random checkpoint with the shapes of a 3B Llama, in bf16 and several shards, to time conversion with.

    python benches/make_shape_checkpoint.py DIR [--layers 26] [--shards 4]
    /usr/bin/time -v sterna convert DIR -o /tmp/x.gguf

Needs numpy. Weights are normally distributed; there is no tokenizer. 5.6 GB with the default shape.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np

HIDDEN, FFN, HEADS, KV, HEAD, VOCAB = 3072, 8192, 24, 8, 128, 32000


def tensors(layers):
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.q_proj.weight", (HEADS * HEAD, HIDDEN)
        yield p + "self_attn.k_proj.weight", (KV * HEAD, HIDDEN)
        yield p + "self_attn.v_proj.weight", (KV * HEAD, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield p + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir", type=Path)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--shards", type=int, default=4)
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
              "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": HEAD,
              "num_hidden_layers": args.layers, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
              "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": VOCAB}
    (args.dir / "config.json").write_text(json.dumps(config, indent=1))
    # One run of numbers, read from another place for each tensor: drawing all of them would take longer than converting.
    rng = np.random.default_rng(1)
    noise = (0.02 * rng.standard_normal(1 << 24, dtype=np.float32)).view(np.uint32)
    noise = (noise >> 16).astype("<u2")
    every = list(tensors(args.layers))
    weight_map = {}
    for shard in range(args.shards):
        part = every[shard * len(every) // args.shards:(shard + 1) * len(every) // args.shards]
        name = f"model-{shard + 1:05}-of-{args.shards:05}.safetensors"
        header, offset = {}, 0
        for key, shape in part:
            size = 2 * int(np.prod(shape))
            header[key] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
            weight_map[key] = name
        text = json.dumps(header).encode()
        with open(args.dir / name, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for key, shape in part:
                left, place = int(np.prod(shape)), int(rng.integers(noise.size))
                while left:
                    run = noise[place:place + left]
                    file.write(run.tobytes())
                    left, place = left - run.size, 0
    index = {"metadata": {}, "weight_map": weight_map}
    (args.dir / "model.safetensors.index.json").write_text(json.dumps(index))


main()
