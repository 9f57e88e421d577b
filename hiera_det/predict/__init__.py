"""Objects found in files and in memory, whatever framework has found them: pictures, tables, cut-outs."""
