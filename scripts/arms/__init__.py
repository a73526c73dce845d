"""What training, scoring and generation share: models, tokens, reference tables, DPO, manifests.

No module of this package knows Snakemake, and importing the package itself imports neither torch nor pandas.
"""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it complains at import that there is no GPU
