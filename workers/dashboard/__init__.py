"""The dashboard: pages, live updates and a JSON API over the read models and the acts that the command line has too.

`routes` is the one table of what there is and who may do it; `site` puts it together.
"""
