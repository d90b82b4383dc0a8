import typing

typing.GENERATING_DOCUMENTATION = "tinygpt"  # set before the import of tinygpt, so that jaxtyping shows short names

from sphinx.domains.python import PyObject  # noqa: E402

import tinygpt  # noqa: E402

project = "tinygpt"
author = "The tinygpt maintainers"
copyright = f"2026, {author}"
version = release = tinygpt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

autodoc_default_options = {"members": True, "exclude-members": "extra_repr, reset_parameters"}  # PyTorch's own names
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # else every forward() shows torch's own text
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute is described once, in the docstring of its class
napoleon_custom_sections = ["Shape", "Source"]

myst_heading_anchors = 3

html_theme = "furo"
html_title = f"tinygpt {version}"
html_copy_source = False

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


def setup(app):
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # the word of the docstrings; Sphinx says "Variables"
    app.connect("missing-reference", find_by_short_name)
