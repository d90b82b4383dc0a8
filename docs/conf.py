import typing

typing.GENERATING_DOCUMENTATION = "tinygpt"  # before tinygpt is imported: jaxtyping then shows its types by short names

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
    (r"py:.*", r"(torch|numpy|matplotlib|collections|pathlib|os|codecs)(\..+)?"),  # other projects, and Python itself
    (r"py:.*", r"Tensor|ndarray|Figure|(Float|Int|UInt|Integer)\d*"),  # the same, as signatures write them
    (r"py:.*", r"'.*'|\*?\w|\.\.\."),  # the letters of shapes
]
nitpick_ignore = [
    ("py:class", "tinygpt.models.gpt.GPTCache"),  # these are seen in signatures, but are nobody's to make
    ("py:class", "tinygpt.layers.convolution.ConvolutionCache"),
    ("py:class", "tinygpt.models.config.Model"),
    ("py:class", "tinygpt.sampling.sampler.Prompt"),
    ("py:class", "tinygpt.errors.Settings"),
    ("py:class", "tinygpt.errors.Function"),
    ("py:class", "SearchStrategy"),  # Hypothesis's
]


def find_by_short_name(app, env, node, contnode):
    """Let a docstring name ``Sampler`` or ``ConfigError`` without its module: these names are unique."""
    if node.get("refdomain") != "py":
        return None
    domain, wanted = env.get_domain("py"), node["reftarget"]
    for length in (2, 1):  # a method with its class, or a name alone, wherever its page says that it lives
        ending = "." + ".".join(wanted.split(".")[-length:])
        found = [name for name, entry in domain.objects.items() if name.endswith(ending) and not entry.aliased]
        if len(found) == 1:
            return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode)
    return None


def setup(app):
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # the word of the docstrings; Sphinx says "Variables"
    app.connect("missing-reference", find_by_short_name)
