"""Molecules, whatever people have: files of them as rows, and each text as its InChIKey and form.

`reading` has the one reader of all commands. `file_content` judges a file by its content, `molecule_columns` finds the
header and the column of the molecules, and a module for each kind of file turns it into rows. `smiles_keys` does the
chemistry of one molecule, in the processes of `rdkit_process`, over which `smiles_workers` spreads rows.
`molecule_input` joins both for the client. Nothing is imported here: a Lambda carries two of these modules.
"""
