import hashlib
import os
import re
import typing
from pathlib import Path

typing.GENERATING_DOCUMENTATION = "tinygpt"  # set before the import of tinygpt, so that jaxtyping shows short names

import myst_nb.core.render  # noqa: E402
import sphinx.builders  # noqa: E402
import torch  # noqa: E402
from docutils import nodes  # noqa: E402
from docutils.utils.math import latex2mathml  # noqa: E402
from sphinx.domains.python import PyObject  # noqa: E402

import tinygpt  # noqa: E402

project = "tinygpt"
author = "The tinygpt maintainers"
copyright = f"2026, {author}"
version = release = tinygpt.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]


def digest_of_sources():
    """Return a digest of all that the output of a page depends on, except the page."""
    folder = Path(tinygpt.__file__).parent
    sources = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".html")]
    return hashlib.sha256(b"\0".join([torch.__version__.encode(), *sources])).hexdigest()[:16]


# A page runs once for its code and for this state of the library. Pages with the same code share their outputs.
nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parent / "_build" / "outputs" / digest_of_sources())
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell, on a busy machine
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a warning on a page fails the build
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain little from more, and lose much on a busy machine
os.environ["TQDM_DISABLE"] = "1"  # no bar in a page, only the lines of each evaluation
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the debugger of the kernel warns of Python's frozen modules

autodoc_default_options = {"members": True, "exclude-members": "extra_repr, reset_parameters"}  # PyTorch's own names
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # else every forward() shows torch's own text
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute is described once, in the docstring of its class
napoleon_custom_sections = ["Shape", "Source"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"tinygpt {version}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tinygpt.css"]
html_math_renderer = "mathml"  # browsers draw it without a script, so that the pages need no network
templates_path = ["_templates"]
copybutton_exclude = ".linenos, .gp, .go"

# Links to other projects would need the network, so what is documented elsewhere stays plain text.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|matplotlib|collections|pathlib|os|codecs)(\..+)?"),  # other projects, and Python's own
    (r"py:.*", r"Tensor|ndarray|Figure|Axes|(Bool|Float|Int|UInt|Integer)\d*"),  # the same names in signatures
    (r"py:.*", r"'.*'|\*?\w|\.\.\."),  # the letters of shapes
]
nitpick_ignore = [
    ("py:class", "tinygpt.models.gpt.GPTCache"),  # signatures show these, but no user makes them
    ("py:class", "tinygpt.layers.convolution.ConvolutionCache"),
    ("py:class", "tinygpt.models.config.Model"),
    ("py:class", "tinygpt.models.quantising.Model"),
    ("py:class", "tinygpt.sampling.prompts.Prompt"),
    ("py:class", "tinygpt.errors.Settings"),
    ("py:class", "tinygpt.errors.Target"),
    ("py:class", "SearchStrategy"),  # Hypothesis's
]


def find_by_short_name(app, env, node, contnode):
    """Let a docstring write ``Sampler``, ``ConfigError`` or ``tinygpt.save`` without the room of the name."""
    if node.get("refdomain") != "py":
        return None
    domain, wanted, role = env.get_domain("py"), node["reftarget"], node["reftype"]
    kinds = ("method", "attribute", "property") if role in ("meth", "attr") else ("function", "class", "exception")
    for length in (2, 1):  # a method with its class, or a name alone
        ending = "." + ".".join(wanted.split(".")[-length:])
        entries = domain.objects.items()
        found = [name for name, each in entries if name.endswith(ending) and each.objtype in kinds and not each.aliased]
        if len(found) == 1:
            return domain.resolve_xref(env, node["refdoc"], app.builder, role, found[0], node, contnode)
    return None


CELL_WITH_VALUES = re.compile(r"^```\{code-cell\} python\n(?=[^`]*  # -> )", re.MULTILINE)


def show_each_value_once(app, docname, source):
    """Hide the outputs of the cells that show their values beside the code, where the tests check them."""
    source[0] = CELL_WITH_VALUES.sub("\\g<0>:tags: [remove-output]\n\n", source[0])


def join_streams(outputs):
    """Join the pieces that a cell printed as they are; MyST-NB would begin a line with each of them."""
    joined, streams = [], {}
    for output in outputs:
        if output["output_type"] != "stream":
            joined.append(output)
        elif output["name"] in streams:
            streams[output["name"]]["text"] += output["text"]
        else:
            streams[output["name"]] = output
            joined.append(output)
    return joined


myst_nb.core.render.coalesce_streams = join_streams

COLUMNS = re.compile(r"^.*\S {2,}\S.*\S {2,}\S", re.MULTILINE)


def keep_columns_aligned(app, doctree, docname):
    """Mark the outputs that are tables: on a phone they scroll, while other outputs wrap."""
    for block in doctree.findall(nodes.literal_block):
        if "output" in block["classes"] and COLUMNS.search(block.astext()):
            block["classes"].append("columns")


def draw_formula(translator, node):
    """Write a formula as MathML."""
    block = isinstance(node, nodes.math_block)
    formula = latex2mathml.tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="math">{formula}</div>\n' if block else formula)
    raise nodes.SkipNode


COURSES = {"course": "en", "curso": "es"}


def name_language(app, pagename, templatename, context, doctree):
    """Give each page of a course its language, and the address of the same page in the other language."""
    folder, _, name = pagename.partition("/")
    if folder in COURSES:
        context["language"] = COURSES[folder]
        (other,) = COURSES.keys() - {folder}
        start = f"{other}/{name.split('_')[0]}"  # the number of a chapter, or "index"
        (twin,) = [page for page in app.env.found_docs if page.split("_")[0] == start]
        context["twin"] = {"language": COURSES[other], "link": context["pathto"](twin)}


LINK_BACK = re.compile(r'(?<=class="viewcode-back" href=")([^"#]*#)([^"]*)')


def link_back_to_names(app, pagename, templatename, context, doctree):
    """Let each link from the source lead to a name of the reference; viewcode expects all names under one module."""
    if pagename.startswith("_modules/tinygpt"):
        objects = app.env.get_domain("py").objects

        def known(link):
            there = [name for name, each in objects.items() if link[1].endswith(f"{each.docname}.html#")]
            parts = link[2].split(".")
            for start in range(len(parts)):
                ending = ".".join(["", *parts[start:]])
                if found := [name for name in there if f".{name}".endswith(ending)]:
                    return link[1] + min(found, key=len)
            return link[0]

        context["body"] = LINK_BACK.sub(known, context["body"])


def read_slow_pages_first(app, env, docnames):
    """Read the pages that run code first, which the processes share, and the Spanish course last.

    Most of its cells have run by then for the English course.
    """
    docnames.sort(key=lambda name: (name.startswith("curso"), name.startswith("api"), not name.startswith("course")))


def promise_notebooks(app, env, docnames):
    """Make an empty notebook for each chapter, so that an index can link to it before its page has run."""
    for name in docnames:
        if name.partition("/")[0] in COURSES:
            notebook = Path(app.outdir).parent / "jupyter_execute" / f"{name}.ipynb"
            notebook.parent.mkdir(parents=True, exist_ok=True)
            notebook.touch()


def one_page_each(docnames, processes):
    """Return tasks of one page each, for reading and writing; with more in a task, processes wait for the last one."""
    return [[name] for name in docnames]


sphinx.builders.make_chunks = one_page_each


def setup(app):
    app.connect("env-before-read-docs", read_slow_pages_first)
    app.connect("env-before-read-docs", promise_notebooks)
    app.add_html_math_renderer("mathml", inline_renderers=(draw_formula, None), block_renderers=(draw_formula, None))
    app.connect("html-page-context", name_language)
    app.connect("html-page-context", link_back_to_names)
    app.connect("doctree-resolved", keep_columns_aligned)
    app.connect("source-read", show_each_value_once)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # the word of the docstrings; Sphinx says "Variables"
    app.connect("missing-reference", find_by_short_name)
