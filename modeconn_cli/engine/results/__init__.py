"""The only writer of files: atomic writes, records, fingerprints, jobs, arrays, figures."""
