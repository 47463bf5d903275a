"""The addresses of the studio's pages, a file for each page.

A new page is a file here with a `router`, an HTML and a JavaScript file of the same name in `../static`, a line in
`PAGES` of `../page.py` and one in `create_app` of `../app.py`.
"""
