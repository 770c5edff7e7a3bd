"""What can be set, and how is it read? Sections are in the module that is called as the room they are for.

Every default carries its reason, units are in the names, and unknown keys are errors that name the nearest valid key.
`tree` puts the sections together, `loading` reads them from flags, environment and file.
"""
