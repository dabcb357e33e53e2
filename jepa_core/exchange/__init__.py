"""In and out: weights of other libraries to runs, and runs to other libraries.

    source.py         a file, folder or name that weights come from; strict reading
    parts.py          what formats read and write: weights by part, an encoder to export, preprocessing
    importing.py      weights to a run's folder           exporting.py   a run to a file
    *_format.py       core's formats: timm, safetensors, onnx (plugins offer more through `jepa_formats`)
    timm_vit.py       an encoder for timm's ViTs as they were trained: class token, stored positions

What is unusual: nothing is loaded in part. A tensor that is missing, left over or of another shape stops
the import; what belongs to a classifier is left out by name, and said. Every export carries the
preprocessing that its run was trained with.
"""
