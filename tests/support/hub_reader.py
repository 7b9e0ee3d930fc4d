"""A program that knows torch and transformers and not this project: what it finds in exported folders, as JSON.

Run as `python -I -S hub_reader.py FOLDER SITE ...`, SITE: where the libraries are installed.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

sys.path[:0] = sys.argv[2:]
try:
    import bdh
except ImportError:
    bdh = None
assert bdh is None, f"{bdh} can be imported here"

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()
logging.set_verbosity_error()


def largest(a, b):
    return float((a.detach() - b).abs().max())


def compare(folder):
    """How far logits, ids, texts and greedy continuations are from what the project wrote down."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    wanted, told = load_file(folder / "expected.safetensors"), json.loads((folder / "told.json").read_text())
    ids = wanted["ids"]
    with torch.no_grad():
        whole, cached = model(ids, use_cache=False).logits, model(ids, use_cache=True).logits
        scored = model(ids, labels=ids, use_cache=False).loss
    greedy = model.generate(ids[:1, :8], max_new_tokens=len(told["greedy"]), do_sample=False, eos_token_id=None)
    return {
        "logits": largest(whole, wanted["logits"]),
        "cached": largest(cached, wanted["logits"]),
        "loss": abs(float(scored) - told["loss"]),
        "ids": [tokenizer(text)["input_ids"] == ids for text, ids in told["texts"]],
        "texts": [tokenizer.decode(ids) == text for text, ids in told["texts"]],
        "greedy": greedy[0, 8:].tolist() == told["greedy"],
        "dtype": str(next(model.parameters()).dtype),
    }


def constant_memory(folder, count):
    """Bytes of the state in the cache that `generate` was given, over all of `count` tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    code = sys.modules[type(model).__module__]
    cache = code.HatcheryCache()
    sizes = []

    def watch(ids, scores):
        sizes.append((cache.state_bytes(), cache.tokens_read))
        return scores

    prompt = torch.arange(5)[None]
    given = {code.CACHE: cache, "logits_processor": [watch]}
    written = model.generate(prompt, max_new_tokens=count, do_sample=False, eos_token_id=None, **given)
    return {"length": written.shape[1], "bytes": sorted({size for size, _ in sizes}), "read": sizes[-1][1]}


def batches(folder):
    """Padded and beam search beside one text at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    texts = [[5, 6, 7, 8, 9], [7, 8]]
    alone = [model.generate(torch.tensor([t]), max_new_tokens=6, do_sample=False, eos_token_id=None) for t in texts]
    padded = torch.tensor([texts[0], [0, 0, 0, *texts[1]]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    given = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(padded, attention_mask=mask, **given)
    beams = model.generate(padded[:1], num_beams=3, **given)
    uncached = model.generate(padded[:1], num_beams=3, use_cache=False, **given)
    pairs = zip(texts, alone, together, strict=True)
    return {
        "padded": [row[5:].tolist() == one[0, len(text) :].tolist() for text, one, row in pairs],
        "beams": beams.tolist() == uncached.tolist(),
    }


def again(folder):
    """What `pipeline` writes, and whether a saved copy of the model is the same model."""
    write = pipeline("text-generation", str(folder), trust_remote_code=True)
    written = write("the cat", max_new_tokens=8, do_sample=False)[0]["generated_text"]
    copy = folder.parent / "copy"
    write.model.save_pretrained(copy)
    second = AutoModelForCausalLM.from_pretrained(copy, trust_remote_code=True).eval()
    ids = torch.arange(9)[None]
    return {"written": written, "copy": largest(second(ids).logits, write.model(ids).logits)}


def using(file):
    """What the piece of Python in docs/using.md prints."""
    os.chdir(file.parent)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        exec(file.read_text(), {})
    return told.getvalue()


root = Path(sys.argv[1])
folders = sorted(path for path in root.iterdir() if (path / "told.json").exists())
found = {folder.name: compare(folder) for folder in folders}
found["memory"] = {name: constant_memory(root / name, n) for name, n in (("bdh", 2000), ("transformer", 100))}
found["batches"] = batches(root / "bdh")
found["again"] = again(root / "bdh")
found["using"] = using(root / "using.py")
sys.stdout.write("\n" + json.dumps(found))
