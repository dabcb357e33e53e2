"""In and out: weights of other libraries to runs, and runs to other libraries.

    base            what formats read and write: weights by part, an encoder to export, preprocessing
    weight_file     a file, folder or name that weights come from; strict reading
    importing       weights to a run's folder           exporting      a run to a file
    timm, safetensors, onnx: core's formats (plugins offer more through `jepa_formats`)

What is unusual: nothing is loaded in part. A tensor that is missing, left over or of another shape stops
the import; what belongs to a classifier is left out by name, and said. Every export carries the
preprocessing that its run was trained with.
"""
