"""One module a system: the experiment that shows its paper's claim; its committed result is
`results/SLUG.json`."""
