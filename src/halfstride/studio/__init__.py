"""The studio: a local web page for small upsampling layers, trained autoencoders, and checkerboards.

pages/              a file for each page: its addresses; add a page here
static/             the pages as the browser gets them: HTML, JavaScript modules, CSS
page.py             all pages, and the head that they share

layer.py            a small layer: its arguments and their ranges
explanation.py      every product and sum of a layer
text.py             a layer's size formula, and code that computes it
animation.py        a layer as a GIF, an SVG, or PNG files, and its views as SVG and PDF
standalone.py       a layer's page as one HTML file
enlarging.py        a picture through stacked layers

runs_folder.py      the runs in a folder
sources.py          where images may be read from
open_run.py         a run's model, test images and latent space
network.py          an image on its way through a run's model
detection.py        judged pictures
detection_notes.py  where `detect` wrote results
run_files.py        a run's files, which may be damaged
responses.py        what the addresses of runs answer
pictures.py         images in the form that the pages take

app.py              the application
dependencies.py     what the pages' addresses share
errors.py           requests that cannot be answered
guard.py            which requests are answered
server.py           serve the application until Ctrl-C
"""
