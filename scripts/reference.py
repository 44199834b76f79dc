#!/usr/bin/env python3
"""Writes docs/c-api.md from kvtier.h and docs/python-api.md from the package's own words. A test compares them.

usage: reference.py [FOLDER]     FOLDER: docs by default
"""

import ast
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parents[1]
HEADER = TOP / "connector-abi" / "include" / "kvtier.h"
PACKAGE = TOP / "python-shim" / "kvtier" / "client"

C_INTRODUCTION = """# C API

`libkvtier` is what an inference engine links, or loads, to share its KV cache. This page is made of
[kvtier.h](../connector-abi/include/kvtier.h) by `scripts/reference.py`; a test compares them.
[roundtrip.c](../connector-abi/tests/c/roundtrip.c) is a program that stores and loads blocks; `pkg-config --cflags --libs kvtier`
says how to compile it. What each version promises is in [compatibility.md](compatibility.md).

"""

PYTHON_INTRODUCTION = """# Python API

`kvtier.client` is a thin, typed binding of [the C library](c-api.md), which the wheel carries. This page is made of the package's
own words by `scripts/reference.py`; a test compares them. An example that stores and loads blocks, and the settings of the
vLLM connector, are in [python-shim/README.md](../python-shim/README.md).

Every failure is an exception with the library's status. A session belongs to one thread at a time.

"""


def plain(comment):
    """The words of a C comment, without its frame."""
    lines = [re.sub(r"^ \* ?|^ \*$", "", line.rstrip()) for line in comment.strip("\n").split("\n")]
    return "\n".join(lines).strip()


def sentence(comment):
    """A comment as one line of a table."""
    return plain(comment).replace("\n", " ").replace("|", "\\|")


def blocks(text):
    """(comment, declaration) of the header, in its order."""
    pattern = re.compile(r"/\*\*\n(.*?)\n \*/\n(.*?)(?=\n\n/\*\*|\n\n#ifdef|\n\n#endif|\Z)", re.DOTALL)
    return [(plain(match[1]), match[2]) for match in pattern.finditer(text)]


def members(body):
    """(comment, declaration) of the members of a struct or an enum."""
    pattern = re.compile(r"  /\*\*\n(.*?)\n   \*/\n  (.*?)[;,]?\n", re.DOTALL)
    found = []
    for match in pattern.finditer(body):
        comment = "\n".join(line[2:] if line.startswith("  ") else line for line in match[1].split("\n"))
        found.append((sentence(comment), match[2].strip().rstrip(";,")))
    return found


def c_api():
    """docs/c-api.md."""
    text = HEADER.read_text()
    rules = plain(re.search(r"\* Rules for all functions\n(.*?)\n \*/", text, re.DOTALL)[1])
    rules = re.sub(r"^ *- ", "- ", re.sub(r"\n {4,}", " ", rules), flags=re.MULTILINE)
    parts = {"Functions": [], "Structures": [], "Values": [], "Constants": []}
    for comment, declaration in blocks(text):
        if function := re.match(r"[^{#]*?\b(kvt_\w+)\(", declaration):
            prototype = re.sub(r"\n +", "\n    ", declaration.strip())
            parts["Functions"].append(f"### {function[1]}\n\n```c\n{prototype}\n```\n\n{comment}\n")
        elif enum := re.match(r"enum (kvt_\w+)", declaration):
            rows = "".join(f"| `{name}` | {words} |\n" for words, name in members(declaration))
            parts["Values"].append(f"### {enum[1]}\n\n{comment}\n\n| value | meaning |\n|---|---|\n{rows}")
        elif struct := re.match(r"typedef struct (kvt_\w+) \{", declaration):
            rows = "".join(f"| `{name}` | {words} |\n" for words, name in members(declaration))
            parts["Structures"].append(f"### {struct[1]}\n\n{comment}\n\n| field | meaning |\n|---|---|\n{rows}")
        elif opaque := re.match(r"typedef struct (kvt_\w+) ", declaration):
            parts["Structures"].append(f"### {opaque[1]}\n\n{comment}\n")
        elif constant := re.match(r"#define (KVT_\w+) (\S+)", declaration):
            parts["Constants"].append(f"`{constant[1]}` = {constant[2]}: {comment}\n")
        else:
            raise SystemExit(f"kvtier.h: this is not understood:\n{declaration}")
    body = f"## Rules for all functions\n\n{rules}\n"
    for title, entries in parts.items():
        body += f"\n## {title}\n\n" + "\n".join(entries)
    return C_INTRODUCTION + body


def signature(function):
    """A function as its caller writes it."""
    arguments = function.args
    if arguments.args and arguments.args[0].arg == "self":
        arguments.args = arguments.args[1:]
    result = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{function.name}({ast.unparse(arguments)}){result}"


def python_class(node):
    """A class with its public methods and fields."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    text = f"### {node.name}{f'({bases})' if bases else ''}\n\n{ast.get_docstring(node) or ''}\n"
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    if fields:
        shown = "\n".join(f"{ast.unparse(item)}" for item in fields)
        text += f"\n```python\n{shown}\n```\n"
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            shown = signature(item).removesuffix(" -> None").removeprefix("__init__")
            text += f"\n```python\n{node.name}{shown}\n```\n"
            if ast.get_docstring(item):
                text += f"\n{ast.get_docstring(item)}\n"
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            is_property = any(ast.unparse(decorator) == "property" for decorator in item.decorator_list)
            shown = item.name if is_property else signature(item)
            text += f"\n- `{shown}`: {(ast.get_docstring(item) or '').replace(chr(10), ' ')}\n"
    return text


def python_api():
    """docs/python-api.md."""
    init = ast.parse((PACKAGE / "__init__.py").read_text())
    modules = {}
    for item in init.body:
        if isinstance(item, ast.ImportFrom) and item.module:
            for alias in item.names:
                modules[alias.name] = item.module
    public = next(ast.literal_eval(item.value) for item in init.body if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "__all__")
    entries = {"Classes": [], "Functions": [], "Exceptions": []}
    for name in public:
        tree = ast.parse((PACKAGE / f"{modules[name]}.py").read_text()) if name in modules else init
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                raises = any("Error" in ast.unparse(base) for base in node.bases)
                entries["Exceptions" if raises else "Classes"].append(python_class(node))
            elif isinstance(node, ast.FunctionDef) and node.name == name:
                words = ast.get_docstring(node)
                entries["Functions"].append(f"### {name}\n\n```python\n{signature(node)}\n```\n\n{words}\n")
    body = "\n".join(f"## {title}\n\n" + "\n".join(found) for title, found in entries.items())
    rest = "\n`kvtier.client.abi` has the C library's constants and structures under their own names without `KVT_`.\n"
    return PYTHON_INTRODUCTION + body + rest


def main():
    """Writes both."""
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "docs"
    (folder / "c-api.md").write_text(c_api())
    (folder / "python-api.md").write_text(python_api())


if __name__ == "__main__":
    main()
