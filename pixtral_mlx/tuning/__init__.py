"""Teach a model something: small matrices (LoRA) beside those of the decoder learn, nothing else.

The vision encoder is frozen, so it sees each picture once. It must not know how adapters are stored
(`checkpoint.adapter_files`) or what the terminal shows. In reading order:

`options`: what can be asked of a training
`dataset`: rows as sequences of ids, checked before anything is computed
`pictures`: what the encoder says of each picture, kept on the disk
`low_rank`: which matrices learn, and how they begin
`batches`: rows of about one length together
`loss`: on the answers, with logits only where they are written
`validation`: rows that it does not learn from; the test with exchanged pictures
`state`: the files of a training
`train`: its steps
`estimate`: whether it fits this machine
`curves`: loss and accuracy, drawn
`tune`: all of it together
`fuse`: an adapter added to the weights
"""
