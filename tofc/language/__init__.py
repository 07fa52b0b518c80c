"""The one way in which a language model is run.

`load` reads it with transformers, `plain` without where it is of a known kind (both by `filling`), `prompt`
makes what it is asked, `sequences` takes prompts and tokens through its blocks (`blocks`), `sampling` chooses
tokens, `batch` decodes rows that come and go, `exits` lets members of a family answer in turn, `generate`
answers many prompts, `text` is what the tokens say.
"""

FULL = "full"  # the exit after all blocks
