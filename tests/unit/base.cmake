graft_test(base_test unit/base_test.c base)
graft_test(launch_rule_test unit/launch_rule_test.c base)
