"""Documents to data that can be checked: of each value its page, its place, how sure it is, and why
somebody should look at it.

What the model says in one go is asked once more, field by field, on the same pages, which the
prompt cache has read already; and whether a field is there at all is a question of its own. This
room asks a model like anybody else. It knows nothing of commands, requests and files of rows. In
reading order:

`extract`: the way in: a model, a document, a schema
`options`: what can be asked of it
`documents`: the pages of a document, and the words that a PDF has itself
`leaves`: the fields of a schema, their names and their questions
`forms`: what an answer to one question may look like, and the value that it says
`asking`: one question about some pages
`answers`: what the tokens of an answer say of a value in it
`passes`: JSON in one go, or a question a field
`joining`: parts of a document, and the whole that they make
`reading`: a document from its first question to its last
`judging`: what is believed of a field when all has been answered
`evidence`: where a value stands
`spelling`: numbers and dates as pages write them
`ready_made`: schemas to start from
`rules`: what must hold among the values
`fields`: a field, as callers see it
`result`: a document, as callers see it
`review`: the page on which a person checks it
`corrections`: what was decided there, put into the rows
"""
