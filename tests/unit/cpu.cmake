graft_test(cpu_layout_test unit/cpu_layout_test.c kern_cpu)
graft_test(cpu_path_test unit/cpu_path_test.c kern_cpu)
graft_test(cpu_stand_in_test unit/cpu_stand_in_test.c kern_cpu)
graft_test(cpu_team_test unit/cpu_team_test.c kern_cpu)
