"""The README of an exported folder: how to call the model without this package."""

from collections.abc import Sequence

from ldmi_lightning.datamodules.text import LONGEST, SHORTEST, UNKNOWN
from ldmi_lightning.export.graph import Input

MODEL, README, ABOUT, VOCABULARY, TOKENIZER = "model.onnx", "README.md", "export.json", "vocabulary.json", "tokenizer"

WORDS = f"""\
words = json.load(open("{VOCABULARY}", encoding="utf-8"))
ids = [[words.get(word, {UNKNOWN}) for word in text.lower().split()[:{LONGEST}]] for text in ["one text", "another"]]
width = max({SHORTEST}, *map(len, ids))
fed = {{"inputs": np.array([row + [0] * (width - len(row)) for row in ids], np.int64)}}
"""
PRETRAINED = """\
texts = ["one text", "another"]{pairs}
tokens = transformers.AutoTokenizer.from_pretrained("{folder}")(
    texts, {second}padding=True, truncation=True, max_length={most}, return_tensors="np")
fed = {{name: tokens[name].astype(np.int64) for name in [{names}]}}
"""


def readme(way: str, lines: str, classes: int, stage: str, checked: str) -> str:
    """Return the content of the README.

    Args:
        way: what the inputs are, in a sentence.
        lines: of Python that make ``fed``, what the graph is fed with.
        classes: C.
        stage: whose model it is.
        checked: how far the graph's probabilities are the model's, in a sentence.
    """
    imports = "import json\n\nimport numpy as np\nimport onnxruntime\n" + (
        "import transformers\n" if "transformers." in lines else ""
    )
    code = f"""{imports}
{lines}session = onnxruntime.InferenceSession("{MODEL}", providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
probabilities = session.run(None, fed)[0]
print([names[each] for each in probabilities.argmax(1)], probabilities.max(1))
"""
    return f"""# {MODEL}: {classes} classes, from the stage {stage}

{way} Run in this folder:

```python
{code}```

{checked} `{ABOUT}` holds the classes, T̂ and where the model comes from; the graph's metadata holds them, too.
"""


def lines_of_arrays(inputs: Sequence[Input]) -> str:
    """Return the lines that feed arrays.

    >>> print(lines_of_arrays([Input("inputs", "x", "uint8", [3, 8, 8])]), end="")
    fed = {"inputs": np.zeros((2, 3, 8, 8), np.uint8)}
    """
    made = [f'"{each.name}": np.{filler(each)}({shape_of(each)}, np.{each.dtype})' for each in inputs]
    return f"fed = {{{', '.join(made)}}}\n"


def filler(each: Input) -> str:
    """Return the name of what fills an example: 0 is a pixel and a number, but padding among token ids."""
    return "ones" if each.dtype == "int64" else "zeros"


def shape_of(each: Input) -> tuple[int, ...]:
    """Return the shape of an example of two samples."""
    return (2, *(8 if size < 0 else size for size in each.shape))


def lines_of_tokenizer(inputs: Sequence[Input], pairs: bool, most: int) -> str:
    """Return the lines that put texts through the tokenizer that lies in the folder.

    >>> print(lines_of_tokenizer([Input("input_ids", "x.input_ids", "int64", [-1])], pairs=False, most=16), end="")
    texts = ["one text", "another"]
    tokens = transformers.AutoTokenizer.from_pretrained("tokenizer")(
        texts, padding=True, truncation=True, max_length=16, return_tensors="np")
    fed = {name: tokens[name].astype(np.int64) for name in ["input_ids"]}
    """
    return PRETRAINED.format(
        folder=TOKENIZER,
        most=most,
        pairs='; seconds = ["its second text", "and this one\'s"]' if pairs else "",
        second="seconds, " if pairs else "",
        names=", ".join(f'"{each.name}"' for each in inputs),
    )
