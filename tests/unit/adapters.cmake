graft_test(adapters_test unit/adapters_test.c adapters)
