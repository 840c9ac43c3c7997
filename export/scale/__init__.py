"""What one machine holds: catalogues of growing size, made, indexed, loaded and asked.

    python -m export scale --sizes 10000,100000,1000000 --vectors 10000000

`measuring` makes and measures one size, a step at a time, in processes of its own; `run` takes one size after
the other, and goes on where a report was killed. `fits` and `capacity` work out what follows, `report` puts
it into a document, and `page` and `plots` show that.
"""
