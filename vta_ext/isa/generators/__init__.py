"""Files made from the table for one configuration: Markdown page, C header, layout for RTL."""

from vta_ext.isa.generators.decoder import rtl_json, rtl_layout
from vta_ext.isa.generators.header import c_header
from vta_ext.isa.generators.page import markdown

__all__ = ["c_header", "markdown", "rtl_json", "rtl_layout"]
