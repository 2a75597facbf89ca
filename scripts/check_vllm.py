"""Check, without installing or running it, that a version of vLLM has what our code uses of it.

    python scripts/check_vllm.py 0.33.0
    python scripts/check_vllm.py path/to/vllm.whl
    python scripts/check_vllm.py path/to/site-packages

vLLM's Python interfaces move with every minor version. This reads our packages and the version's sources and compares:

* imports: every `from vllm.x import y` finds its name, at run time, through re-exports, `import *` and tables of lazy
  names. Of imports that stand in for each other (`try`/`except ImportError`, `if`/`else`) one must.
* calls: the arguments of every call of a vLLM function, class or method fit what it takes. A field that a model merely
  lets in is none that it has; who means it says so: `# type: ignore[call-arg]`.
* overrides: what our classes override is there in vLLM's, is of the same sort (property, coroutine, plain) and gives
  no parameter that ours does not take; what vLLM's leave abstract is defined. A method that vLLM's class does not have
  counts as an override where it has `@override` or `# type: ignore[override]`, calls `super()`'s of the same name, or
  is public and nothing in our code calls it.
* attributes: those of objects whose vLLM class follows from annotations, assignments and results, those that our
  classes inherit, and those of parsed command line arguments. What the code asks for first (`hasattr`, `getattr` with
  a default) may be missing, and so may what is knowingly made up: `# type: ignore[attr-defined]`.

Code for some versions only is marked by a comment, on the statement or on the line that opens the block:
`# vllm>=0.33` or `# vllm<0.33`.

An object of which it cannot be told what it is goes unchecked; -v lists what was checked. What no reading of our code
can see stands in a table, `TOUCHED` in drr/engine/border.py: a tuple of `Touch(path, reason)`, read and not run. They
count as attributes. A path is one of these, or several with ` | ` between them, of which one must be right:

    vllm.a.b                            there is such a module
    vllm.a.b:name                       the module has this name
    vllm.a.b:Class.attribute.inner      instances have this attribute, and what is in it has another
    vllm.a.b:Class.method(first, /, x)  it takes these parameters; those before `/` first, by position, in this order
    vllm.a.b:Class(x)                   making one takes this parameter
    vllm.a.b:function(state.name)       the function, or one that it hands `state` to, sets this attribute of it
    vllm.a.b:"text"                     this string stands in the module's code

One line is printed for each problem. Exit status: 0 for none, 1 for some, 2 where there is nothing to compare (no such
version, code that cannot be parsed), 3 where the package index cannot be reached.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_border.check import check_release
from vllm_border.wheel import NoAnswerError, NoSuchVersionError, find_release

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drr" / "vllm-sources"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="The file's docstring says what is checked and how."
    )
    parser.add_argument(
        "release", metavar="VERSION", help="a version of vLLM, a wheel of it, or a folder that holds it"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help="where downloaded sources are kept")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="where our packages are")
    parser.add_argument("-v", "--verbose", action="store_true", help="list all that is checked")
    args = parser.parse_args(argv)
    try:
        release = find_release(args.release, args.cache)
    except NoSuchVersionError as error:
        print(f"check_vllm: {error}", file=sys.stderr)
        return 2
    except NoAnswerError as error:
        print(f"check_vllm: {error}", file=sys.stderr)
        return 3
    try:
        findings = check_release(release, args.root.resolve())
    except SyntaxError as error:
        print(f"check_vllm: {error.filename}:{error.lineno}: {error.msg}", file=sys.stderr)
        return 2
    if not findings.counts["imports"]:
        print(f"check_vllm: nothing under {args.root} imports vllm", file=sys.stderr)
        return 2
    for line in findings.seen if args.verbose else ():
        print(line)
    for problem in sorted(findings.problems):
        print(problem)
    print(findings.summary(release.version))
    return 1 if findings.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
