"""Charts as SVG, drawn here: no script, no other host, and readable without seeing them, by a title and a description.

Colours are classes of the style sheet, so that they follow light and dark. Each chart is drawn for a wide and for a narrow
page; the style sheet shows one of them.
"""
