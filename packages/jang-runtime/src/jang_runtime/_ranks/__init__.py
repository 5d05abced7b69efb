"""One model over several processes: mlx.launch starts them, mx.distributed connects them.

Rank 0 serves and the others follow. `sharding` splits a model, `group` is how ranks agree,
`steps` what rank 0 tells the others before every step, `start` how they begin, `lifeline` how they
notice that one is gone, `follower` what ranks above 0 do.
"""
