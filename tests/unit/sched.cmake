graft_test(sched_test unit/sched_test.c sched)
