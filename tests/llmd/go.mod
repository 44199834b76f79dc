module kvtier.test/llmd

go 1.26
