"""Models whose layers do not all fit: those that do not are streamed in while the model computes.

`sizes` reads a budget (light), `storage` lays a layer's weights out in one piece, `layer_files` and
`host_layers` hold those pieces on disk and in pinned memory, `ring` streams them through a few
buffers, `streamed` lets a module compute with them, `loading` puts it all together.
"""
