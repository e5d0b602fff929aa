"""New pairs from a person: which items to ask about, a sheet to fill in, and a web page that asks one by one."""
