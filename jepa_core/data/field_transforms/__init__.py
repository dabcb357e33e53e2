"""What is done to each named value of a sample before the model sees it, one component a file.

`crop` images and clips, `none` and `normalise` numbers, `tokenize` texts, `log_mel` sounds; `pipeline` has
those of all values of a source. A transform knows its value alone and says what is wrong with it; which
source, sample and field that was, the pipeline adds.
"""
