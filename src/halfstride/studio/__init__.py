"""The studio: the upsampling layers to touch and a trained autoencoder to play with, on a page of one's own machine.

layer.py        one small layer taken apart: every product, where it lands, what it adds up to
text.py         the same layer as a formula and as code
runs.py         the runs in a folder: how far they are, how good they are
opened.py       a run's model, test images and latent space
reading.py      a run's files, which may be damaged
answers.py      what the addresses of runs answer
pictures.py     images on their way to a browser
app.py          the addresses, which hand out what the files above compute
guard.py        who may ask, and how much
server.py       a port, a browser, Ctrl-C
static/         the pages: ES modules, SVG and CSS, as they are served
"""
