"""Text files are UTF-8, whatever the locale."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_text_file_has_an_encoding() -> None:
    """Without one Python takes the locale's, which may be ASCII."""
    for room in ("cnn_jax", "experiments"):
        for path in (ROOT / room).rglob("*.py"):
            for call in text_calls(ast.parse(path.read_text(encoding="utf-8"))):
                given = {keyword.arg for keyword in call.keywords}
                assert "encoding" in given, f"{path}:{call.lineno}: {ast.unparse(call)}"


def test_calls_that_open_text_are_told_from_others() -> None:
    text = "p.read_text() p.write_text(x) open(p) open(p,'w') p.open() p.open('a') os.fdopen(1,'w')"
    text += " TemporaryFile('w+') run(x,text=True)"
    other = "p.read_bytes() open(p,'rb') p.open('xb') data.open(split) Image.open(file) run(x)"
    for code in text.split():
        assert list(text_calls(ast.parse(code))), code
    for code in other.split():
        assert not list(text_calls(ast.parse(code))), code


def text_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that read or write text."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        values = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
        strings = {v.value for v in values if isinstance(v, ast.Constant)}
        modes = {s for s in strings if isinstance(s, str) and re.fullmatch(r"[rwaxbt+]{1,3}", s)}
        is_method = isinstance(node.func, ast.Attribute)
        if (
            name in ("read_text", "write_text")
            or any(k.arg == "text" and ast.unparse(k.value) == "True" for k in node.keywords)
            or (name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile") and modes)
            and not any("b" in mode for mode in modes)
            or (name == "open" and not (node.args if is_method else modes))
        ):
            yield node
