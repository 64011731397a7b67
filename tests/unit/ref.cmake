graft_test(ref_test unit/ref_test.c kern_ref)
graft_test(sample_test unit/sample_test.c kern_common)
graft_test(fault_test unit/fault_test.c kern_fault kern_ref)
