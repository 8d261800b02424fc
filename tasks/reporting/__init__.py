"""The evaluation report: charts, markdown, an HTML page and a table for the console.

`inputs.ReportInput` goes in, text and PNG bytes come out. `content` decides once what the
report says; `markdown` and `page` only render it, so that both say the same. Nothing here
knows Prefect or AWS; only `charts` imports matplotlib.
"""
