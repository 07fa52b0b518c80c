"""The one way in which a language model is run.

`load` reads it with transformers, `plain` without where it is of a known kind, `prompt` makes what it is
asked and says what its tokens mean, `sequences` takes prompts and tokens through its blocks (`blocks`),
`sampling` chooses tokens, `batch` decodes rows that come and go, `generate` answers many prompts, by one exit
or by the first of several that is sure.
"""

FULL = "full"  # the exit after all blocks
