"""How fastgan is built: the packaging hooks, the decisions about toolchains, and the compilation."""
