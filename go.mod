module example.com/gipc

go 1.25
