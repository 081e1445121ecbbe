package gipc
