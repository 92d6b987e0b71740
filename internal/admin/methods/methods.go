// Package methods says of every method of the admin API what it does, by which
// roles tell who may call it, and which of them nodes may call of each other. A
// method that does not stand here is closed.
package methods

import "github.com/clrelay/clrelay/internal/roles"

// AccessTo tells what a method, by its full name, does. It is the list of all
// methods that can be called.
func AccessTo(method string) roles.Access {
	switch method {
	case "/admin.v1.AccessService/Whoami":
		return roles.Anyone
	case "/admin.v1.QueueService/Summary",
		"/admin.v1.QueueService/List",
		"/admin.v1.QueueService/Shape",
		"/admin.v1.QueueService/Reasons",
		"/admin.v1.MessageService/Show",
		"/admin.v1.TraceService/Find", "/admin.v1.TraceService/Search", "/admin.v1.EventService/Tail",
		"/admin.v1.RuleService/ListRules",
		"/admin.v1.LimitService/ListLimits", "/admin.v1.LimitService/LimitUsage", "/admin.v1.LimitService/ExplainLimits",
		"/admin.v1.LockoutService/ListLockouts", "/admin.v1.RouteService/ListRoutes",
		"/admin.v1.SuppressionService/ListSuppressions", "/admin.v1.SuppressionService/ShowSuppressions",
		"/admin.v1.NodeService/Status",
		"/admin.v1.ClusterService/Status",
		"/admin.v1.ConfigService/Get",
		"/admin.v1.ConfigService/History",
		"/admin.v1.ConfigService/Nodes",
		"/admin.v1.JobService/List",
		"/admin.v1.JobService/Watch",
		"/admin.v1.AccessService/List",
		"/admin.v1.TestService/Address",
		"/admin.v1.TestService/Outcomes",
		"/admin.v1.DoctorService/Examine",
		"/admin.v1.DoctorService/Clock",
		"/admin.v1.TopService/Stats",
		"/admin.v1.CertService/Nodes",
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/List",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo":
		return roles.Looks
	case "/admin.v1.QueueService/Retry",
		"/admin.v1.QueueService/Hold",
		"/admin.v1.QueueService/Release",
		"/admin.v1.QueueService/Drop",
		"/admin.v1.QueueService/Bounce", "/admin.v1.TraceService/Listen",
		"/admin.v1.JobService/Start",
		"/admin.v1.JobService/Cancel",
		"/admin.v1.JobService/Work",
		"/admin.v1.QueueService/Undrop",
		"/admin.v1.QueueService/Reroute",
		"/admin.v1.QueueService/Expire",
		"/admin.v1.RuleService/AddRule",
		"/admin.v1.RuleService/RemoveRule",
		"/admin.v1.LimitService/SetLimit", "/admin.v1.LimitService/ClearLimit", "/admin.v1.LockoutService/LiftLockouts",
		"/admin.v1.SuppressionService/AddSuppressions", "/admin.v1.SuppressionService/RemoveSuppressions",
		"/admin.v1.NodeService/Drain",
		"/admin.v1.NodeService/Resume":
		return roles.Operates
	case "/admin.v1.NodeService/Remove",
		"/admin.v1.ClusterService/TransferLeader",
		"/admin.v1.ConfigService/Apply",
		"/admin.v1.ConfigService/Confirm",
		"/admin.v1.DebugService/LogLevel",
		"/admin.v1.DebugService/Bundle",
		"/admin.v1.DebugService/Profile",
		"/admin.v1.JoinTokenService/Create", "/admin.v1.JoinTokenService/Revoke",
		"/admin.v1.CertService/Renew", "/admin.v1.CertService/Sign", "/admin.v1.CertService/Rotate",
		"/admin.v1.RescueService/WriteOff":
		return roles.Administers
	case "/admin.v1.ContentService/Headers", "/admin.v1.ContentService/Body":
		return roles.Content
	case "/admin.v1.RescueService/Backup", "/admin.v1.JoinTokenService/List":
		return roles.Exports
	case "/admin.v1.AuditService/List",
		"/admin.v1.AuditService/Tail",
		"/admin.v1.AuditService/Verify":
		return roles.Audits
	}
	return roles.Denied
}

// OpenToNodes tells whether other nodes of the cluster may call a method.
// Where they may for this node's own share alone, local is true: the request
// must say so.
func OpenToNodes(method string) (open, local bool) {
	switch method {
	case "/admin.v1.QueueService/Summary",
		"/admin.v1.QueueService/List",
		"/admin.v1.QueueService/Shape",
		"/admin.v1.QueueService/Reasons",
		"/admin.v1.MessageService/Show",
		"/admin.v1.ContentService/Headers", "/admin.v1.ContentService/Body",
		"/admin.v1.TraceService/Search", "/admin.v1.TraceService/Listen", "/admin.v1.EventService/Tail",
		"/admin.v1.QueueService/Retry",
		"/admin.v1.QueueService/Hold",
		"/admin.v1.QueueService/Release",
		"/admin.v1.QueueService/Drop",
		"/admin.v1.QueueService/Bounce",
		"/admin.v1.QueueService/Undrop",
		"/admin.v1.QueueService/Reroute",
		"/admin.v1.QueueService/Expire",
		"/admin.v1.AuditService/Verify",
		"/admin.v1.TestService/Outcomes",
		"/admin.v1.DoctorService/Examine",
		"/admin.v1.TopService/Stats",
		"/admin.v1.LimitService/LimitUsage", "/admin.v1.LimitService/ExplainLimits", "/admin.v1.RouteService/ListRoutes",
		"/admin.v1.LockoutService/ListLockouts", "/admin.v1.LockoutService/LiftLockouts",
		"/admin.v1.DebugService/Bundle":
		return true, true
	case "/admin.v1.NodeService/Status",
		"/admin.v1.JobService/Work",
		"/admin.v1.DoctorService/Clock",
		"/admin.v1.CertService/Sign",
		"/grpc.health.v1.Health/Check":
		return true, false
	}
	return false, false
}
